"""What the pages of coordinator and site share: who may ask, how numbers read, how it looks."""

"""The demo's model and text: pinned packages, fetched once, and what is made of them."""

"""An exchange on one machine: its sites, Flower's engine or real servers, and its report."""

"""Records: files and datasets read, batches made of them."""

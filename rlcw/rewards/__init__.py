"""What a reply is worth: rules, writing, and the mix of the two."""

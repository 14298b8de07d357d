"""What is measured: a folder for each study, and one table of them."""

"""What the command line and the scripts of tools/ and projects/ share."""

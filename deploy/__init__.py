"""Where the parts are put together and run: the command line and everything an operator needs."""

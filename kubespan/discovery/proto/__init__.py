"""The protocol's messages: the .proto files, and what `make proto` generates from them."""

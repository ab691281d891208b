"""One reader per published dataset or file layout."""

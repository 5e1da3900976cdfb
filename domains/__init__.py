"""What is true of a domain; a domain imports core and datasets, never another domain."""

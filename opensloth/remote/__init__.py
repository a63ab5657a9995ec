"""What the HTTP client is made of: credentials, transport, errors, shapes, and one module for each resource."""

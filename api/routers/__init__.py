"""The routes, one module a resource; each only translates between HTTP and a service."""

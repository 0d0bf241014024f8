"""The HTTP face of a node: invocations, the HTTP trigger, the control API, errors -> HTTP, auth, metrics."""

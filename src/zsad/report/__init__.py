"""What people look at: the HTML page and its charts."""

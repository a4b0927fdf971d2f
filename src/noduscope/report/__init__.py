"""Results as files: tables, pictures, the page."""

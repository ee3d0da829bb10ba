"""Arrays, pytrees, linear algebra, blocks of rows: nothing here knows what a mixture is."""

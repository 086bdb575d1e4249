"""Reports for analysts: declared once as data, counted from facts when somebody asks."""

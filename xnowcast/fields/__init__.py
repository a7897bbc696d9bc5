"""What is known of CF fields: how they are found and labelled, their units, times, cells and grids."""

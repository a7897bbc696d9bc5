"""Systems side by side: the same data, crops, windows, budget and seeds, then one scorecard on the same cells."""

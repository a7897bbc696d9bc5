"""Data from elsewhere: tutorial events, synthetic rain, and whole files and stores opened, joined and written."""

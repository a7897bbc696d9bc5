"""How forecasts of rain are judged: on which events, by which methods, with which scores, and how that is shown."""

"""Published data sets: their layouts, protocols and published figures."""

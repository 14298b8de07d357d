"""Opening what was left: one result, many, the folder of a run or of a sweep."""

"""The page of one run or several."""

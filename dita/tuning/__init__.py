"""Which steps to compute in full: errors of forecasts from inner products alone, and programmes and searches over them.

NumPy and the standard library only: `gram` (what a forecast misses), `programme` (the best full steps), `schedules` and
`climbing` (a closed-loop search), `ratios` (how many tokens where).
"""

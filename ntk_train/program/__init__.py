"""From a function to its linearised program, cut where a parameter's tangent meets data."""

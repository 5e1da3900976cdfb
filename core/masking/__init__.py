"""Who is seen, who is predicted, who is absent: scores and one top-k."""

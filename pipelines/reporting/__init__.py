"""The parts of a report: facts of a run, verdict, figures, and the page that shows them."""

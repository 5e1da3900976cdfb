"""Face security: honest evaluation of detectors, scores of photographs and videos."""

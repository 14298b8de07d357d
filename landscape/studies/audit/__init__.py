"""How fragile measures of generalisation are: models that differ in one knob and do equally well, compared."""

"""Token optimisation: from one annotated image to vectors that can replace words."""

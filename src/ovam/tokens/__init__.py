"""Token optimisation: from one annotated image to vectors that stand wherever words do."""

"""What the embedded model can do, measured; `ovam mini report` puts it together."""

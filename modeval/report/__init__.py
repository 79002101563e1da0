"""One file for each format: render(card) -> text or renderables."""

"""Images that synthetic clips are drawn from: pictures, shapes, photographs and backgrounds."""

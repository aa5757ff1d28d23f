"""What every product is drawn with: shapes and noise, light and camera, print, damage."""

"""What the commands of the command line do, a file for each group; `mvtec_ad.cli` reads the words."""

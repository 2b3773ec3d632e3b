"""What `from dataengine import …` offers: the algorithms on files and arrays, with tables as results."""

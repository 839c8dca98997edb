"""What reports can be asked for; imports nothing, so that options can name it."""

NUM_IMAGES = 200  # that a page shows
SUFFIXES = {'list': '.txt', 'csv': '.csv', 'coco': '.json', 'fiftyone': '.fiftyone.json'}  # of exported files
KINDS = ('chosen', 'suspected')  # of exported images

"""AlexNet and its training. Given tensors; knows nothing of files of images."""

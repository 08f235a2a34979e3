"""Stage two of the data path: from batches of datagrams to column batches."""

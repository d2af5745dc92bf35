"""What only a GPU can show: checks that run there in minutes, and on a CPU at tiny sizes."""

"""What a recommender is: items, sessions, tensors, ranks. No Kafka, no environment, no wall clock."""

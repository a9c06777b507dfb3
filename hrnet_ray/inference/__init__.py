"""What a trained model is used for: predicting, scoring, drawing."""

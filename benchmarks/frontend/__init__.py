"""What a front-end costs, against a bare echo on the same transport."""

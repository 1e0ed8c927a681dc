package acquire

// Classify and the end of all flights cannot be seen from outside.
var Classify = classify

// WaitFlights returns once no flight is under way.
func WaitFlights(a *Acquirer) { a.wg.Wait() }

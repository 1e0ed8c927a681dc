// Package endpoint has what the endpoints of the simulated services have in common: faults act on
// each operation, and the journal records it.
package endpoint

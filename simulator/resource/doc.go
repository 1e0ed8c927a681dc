// Package resource is a simulated web API that takes Bearer tokens: it checks each one as an API should, and says who called.
//
// It is what a demo or a test calls with the token in hand, to see that the token is good for what it was asked for and for nothing else.
package resource

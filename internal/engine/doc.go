// Package engine is the binding key and what obtains tokens with it.
package engine

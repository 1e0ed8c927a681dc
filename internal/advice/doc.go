// Package advice lets an error say what its reader can do next.
package advice

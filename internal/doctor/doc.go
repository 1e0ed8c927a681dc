// Package doctor looks at all that the agent and its keys need on this machine.
package doctor

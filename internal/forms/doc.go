// Package forms says which forms of credentials work on this machine and in its tenants.
package forms

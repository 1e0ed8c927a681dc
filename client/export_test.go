package client

var (
	DecodeToken    = decodeToken
	DecodeError    = decodeError
	NewTokenSource = newTokenSource
)

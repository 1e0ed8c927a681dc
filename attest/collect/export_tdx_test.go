package collect

// ParseQuoteAnswer reads the host's answer to a TDREPORT.
func ParseQuoteAnswer(body []byte) ([]byte, error) { return parseQuoteAnswer(body) }

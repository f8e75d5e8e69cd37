"""HTTP as such: headers, addresses, origins, codings, event streams, our own client. Knows no Anthropic."""

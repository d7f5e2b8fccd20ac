"""AdaCache and MoReg as published (arXiv 2411.02397): the change of the residuals decides which steps compute."""
